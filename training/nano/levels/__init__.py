"""One policy learnt, five judged: the paper's Table 3 at nano's scale (`python -m training levels`)."""
