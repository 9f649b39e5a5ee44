"""A trained model as others can use it: in the stock SD3 programs where they can hold it, and whole in every case."""
