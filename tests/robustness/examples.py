"""How many examples the fuzz tests draw: few in the suite, many on request."""

import os

EXAMPLES = int(os.environ.get("GA_DETECTRON2_FUZZ_EXAMPLES", "30"))
