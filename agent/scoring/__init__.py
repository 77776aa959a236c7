"""How much of a picture can be believed: what two independent halves of one acquisition have in common."""
