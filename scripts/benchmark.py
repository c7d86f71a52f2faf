from attention_lab import benchmark

if __name__ == "__main__":
    benchmark()
