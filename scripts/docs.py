from attention_lab import docs

if __name__ == "__main__":
    docs()
