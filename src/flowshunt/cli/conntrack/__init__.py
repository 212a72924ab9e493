"""`flowshunt conntrack`: the connections of a switch that runs, with conntrack(8)'s options.

arguments    the options, and what they mean as a filter
command      what is asked of the switch, what is printed, and the exit status
"""
