from attention.lab.commands.repeat import main

if __name__ == "__main__":
    main()
