"""Summarise a run and export its best students: `python analyze.py RUN [--export DIR --top N]`."""

from kd_tune.cli import analyze_main

if __name__ == "__main__":
    analyze_main()
