"""`python -m thaitool` is the same program as `thaitool`."""

from thaitool.cli.main import main

if __name__ == "__main__":
    main()
