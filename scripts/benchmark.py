from attention.lab.commands.benchmark import main

if __name__ == "__main__":
    main()
