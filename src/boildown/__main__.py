"""`python -m boildown` is the command line."""

from boildown.cli import main

if __name__ == "__main__":
    main()
