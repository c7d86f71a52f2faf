from attention.lab.commands.eval import main

if __name__ == "__main__":
    main()
