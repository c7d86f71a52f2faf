"""Claims about attention, put to the test: a file a claim, and the page of all of them."""
