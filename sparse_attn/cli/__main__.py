"""`python -m sparse_attn.cli`."""

from sparse_attn.cli import main

main()
