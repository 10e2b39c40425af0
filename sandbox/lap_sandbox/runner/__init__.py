"""What runs inside a sandbox (supervisor, zygote, worker) and the wire both ends share.

Standard library only: the image holds this folder and nothing else of ours.
"""
