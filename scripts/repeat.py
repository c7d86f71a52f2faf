from attention_lab import repeat

if __name__ == "__main__":
    repeat()
