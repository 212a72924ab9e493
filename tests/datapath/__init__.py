"""Tests of the datapath."""
