"""`python -m edge_gateway` is the `edge-gateway` command."""

from edge_gateway.cli import main

if __name__ == "__main__":
    main()
