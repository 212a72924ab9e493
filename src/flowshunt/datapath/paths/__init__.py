"""Paths: what a packet's way through the tables says about the packets that follow it.

May import what the datapath imports. Hands out the records of paths and flows (`records`).
"""
