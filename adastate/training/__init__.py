"""Teacher, student, critic and their distillation: the LightningModules and what they are made of."""
