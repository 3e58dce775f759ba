"""Print the fields of Feast's registry messages, as the installed Feast defines them."""

import json

from feast.protos.feast.core.Registry_pb2 import Registry


def describe(message, found):
    if message.full_name in found:
        return
    found[message.full_name] = fields = {}
    for field in message.fields:
        kind = field.message_type.full_name if field.message_type else ""
        if field.message_type and field.message_type.GetOptions().map_entry:
            inner = {one.name: one.type == one.TYPE_STRING for one in field.message_type.fields}
            kind = "pairs" if all(inner.values()) else field.message_type.full_name
        scalar = {field.TYPE_STRING: "text", field.TYPE_BOOL: "flag"}.get(field.type, "number")
        many = field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED
        fields[field.number] = [field.name, kind or scalar, many, field.type == field.TYPE_BYTES]
        if field.message_type:
            describe(field.message_type, found)


messages: dict = {}
describe(Registry.DESCRIPTOR, messages)
print(json.dumps(messages))
