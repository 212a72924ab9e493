"""`flowshunt trace`: what rules in a file do to a packet, without a switch that runs."""
