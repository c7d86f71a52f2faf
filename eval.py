from attention_lab import evaluate

if __name__ == "__main__":
    evaluate()
