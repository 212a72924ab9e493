"""`python -m flowshunt` is the command `flowshunt`."""

from flowshunt.cli import main

if __name__ == "__main__":
    main()
