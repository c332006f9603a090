"""Says hello, and stays if it is told to: the size of a program that brings its language along."""

import time

from wit_world import exports
from wit_world.imports import environment


class Run(exports.Run):
    def run(self) -> None:
        print("hello", flush=True)
        if "stay" in environment.get_arguments():
            time.sleep(3600)
