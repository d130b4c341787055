"""The only room that imports zmq: commands to the store, changes from it."""
