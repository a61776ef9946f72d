"""Students on the Hugging Face Hub: pushed with a card that is filled from the run, and pulled."""
