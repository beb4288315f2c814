"""The LlamaFactory underneath: which versions, and whether it is one to stand on."""
