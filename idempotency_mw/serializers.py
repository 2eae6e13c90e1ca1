"""The serializers for results of functions: see `idempotency_mw.functions.serializers`."""

from idempotency_mw.functions import serializers

CustomDictSerializer = serializers.CustomDictSerializer
DataclassSerializer = serializers.DataclassSerializer
OutputSerializer = serializers.OutputSerializer
PydanticSerializer = serializers.PydanticSerializer

__all__ = ["CustomDictSerializer", "DataclassSerializer", "OutputSerializer", "PydanticSerializer"]
