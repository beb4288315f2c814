"""What a run can keep for later ones: the reference's log-probs, and what a frozen vision tower sees in each image.

- `fingerprints.py`, `keys.py`: names for weights, images and pairs by their content, and what a cache depends on;
- `store.py`: a folder that is known by its key, refuses what does not fit, and never holds half a file;
- `reference.py`, `reference_pass.py`: log-probs of pairs under the reference model, kept and computed;
- `images.py`, `image_pass.py`: features of images, kept and computed; `passes.py`: what both passes share;
- `plan.py`: which caches a run uses; `fill.py`: when they are filled; `__main__.py`: a command that does only that.
"""
