from attention_lab import sweep

if __name__ == "__main__":
    sweep()
