from attention.lab.commands.docs import main

if __name__ == "__main__":
    main()
