"""The paper's study in miniature: which arms there are, how they are run and measured, and what may be said of them."""
