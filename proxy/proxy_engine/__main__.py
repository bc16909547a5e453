import sys

from proxy_engine.cli import main

sys.exit(main())
