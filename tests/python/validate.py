"""Says of each value of a list whether it is valid by a schema.

validate.py SCHEMA VALUES: one line a value, `valid` or where it is not.
"""

import json
import sys

import jsonschema

with open(sys.argv[1], encoding="utf-8") as file:
    schema = json.load(file)
with open(sys.argv[2], encoding="utf-8") as file:
    values = json.load(file)

jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for value in values:
    faults = sorted(validator.iter_errors(value), key=lambda fault: len(fault.path))
    places = ["/" + "/".join(map(str, fault.absolute_path)) for fault in faults]
    print(places[0].rstrip("/") if places else "valid")
