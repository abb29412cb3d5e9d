"""The distribution of the contracts, and the generator of what is made from them."""
