"""An upload handler that judges a photo before it keeps it, with the guard inside the application.

    uvicorn examples.upload_handler:app
    curl -F photo=@upload.jpg http://127.0.0.1:8000/photos
"""

from fastapi import FastAPI, HTTPException, UploadFile

from safeguard_sdk import Guard, ImageError, Policy

MOST_BYTES = 20 << 20

app = FastAPI()
guard = Guard(Policy.packaged("general"))  # made once; any number of threads may share it


@app.post("/photos")
def upload(photo: UploadFile) -> dict:  # no `async`: FastAPI gives it a thread, and others are served meanwhile
    data = photo.file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise HTTPException(413, f"over {MOST_BYTES} bytes")
    try:
        verdict = guard.check(data)
    except ImageError as error:  # it could not be judged, which is not the same as safe
        raise HTTPException(422, {"kind": error.kind, "message": str(error)}) from error
    if verdict.label == "unsafe":
        raise HTTPException(403, {"rule": verdict.rule, "score": verdict.score})
    # Keep it here; one for "review" where nobody sees it before somebody has looked.
    return {"label": verdict.label, "score": verdict.score}
