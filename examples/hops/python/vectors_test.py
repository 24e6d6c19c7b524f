"""The vectors of proto/hopbound/v1/testdata that need no network."""

import json
import pathlib
import unittest

import wire

TESTDATA = pathlib.Path(__file__).parent / "../../../proto/hopbound/v1/testdata"


def read(name):
    return json.loads((TESTDATA / name).read_text())


def comparable(fields):
    """Returns fields as the vectors have them: 64-bit numbers as strings, and flags only if they are set."""
    said = {key: value for key, value in fields.items() if value != 0 or key not in "knl"}
    return {key: str(value) if key in "dse" else value for key, value in said.items()}


class Vectors(unittest.TestCase):
    def test_values(self):
        for key, parse in (("hop-context", wire.parse_context), ("hop-report", wire.parse_report)):
            for vector in read("wire.json")[key]:
                with self.subTest(f"{key}: {vector['name']}"):
                    fields = parse(vector["value"])
                    self.assertEqual(None if fields is None else comparable(fields), vector.get("fields"))
                    self.assertEqual(fields is None, vector.get("malformed", False))
                    if vector.get("canonical"):
                        self.assertEqual(wire.format_fields(vector["fields"]), vector["value"])

    def test_deadlines(self):
        for vector in read("deadlines.json")["deadlines"]:
            with self.subTest(vector["name"]):
                receiver = wire.Receiver()
                for message in vector["messages"]:
                    fields = {key: int(message[key]) for key in "ds"}
                    timeout = int(message["grpc"]) if "grpc" in message else None
                    left = receiver.remaining("connection", {**fields, "c": message["c"]}, int(message["received"]), timeout)
                    self.assertEqual(left, int(message["remaining"]))


if __name__ == "__main__":
    unittest.main()
