"""How the embedded model is made: vision.py names what is seen, reader.py reads the policy, train.py joins them."""
