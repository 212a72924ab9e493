"""`flowshunt offload`: who forwards connections of a switch that runs, why others are not, and taking them back."""
