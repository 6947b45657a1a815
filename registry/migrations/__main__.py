"""`python -m registry.migrations "what it does"`: write the next migration from what the tables say."""

import sys
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit('usage: python -m registry.migrations "what it does"')
    here = Path(__file__).parent
    engine = create_engine("sqlite://")
    config = Config()
    config.set_main_option("script_location", str(here))
    number = len(list((here / "versions").glob("[0-9]*.py"))) + 1
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        command.revision(config, message=sys.argv[1], rev_id=f"{number:04d}", autogenerate=True)


if __name__ == "__main__":
    main()
