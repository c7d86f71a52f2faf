from attention.lab.commands.claims import main

if __name__ == "__main__":
    main()
