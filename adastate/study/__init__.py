"""The paper's study in miniature: its arms, how they are trained and measured, and the verdicts on the claims."""
