"""``python -m fastdmf``."""

from fastdmf.cli import main

if __name__ == "__main__":
    main()
