from attention_lab import claims

if __name__ == "__main__":
    claims()
