from attention_lab import train

if __name__ == "__main__":
    train()
