"""How a generator is run.

Nothing here knows a network: it is given as a function from tokens to logits. What is random comes from one key per
example, so that an example's tokens depend on neither its neighbours nor the padding.
"""
