"""`flowshunt top`: what a switch does just now.

rates     two samples as what happened between them, per second
screen    rates as sections of text
command   asks, waits, shows
"""
