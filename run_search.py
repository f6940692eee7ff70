"""Start, resume or extend a search: `python run_search.py [FILE] [--resume RUN]`; `--help` lists everything."""

from kd_tune.cli import search_main

if __name__ == "__main__":
    search_main()
