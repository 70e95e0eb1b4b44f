"""What the benchmark compares with: the ingest endpoint of a Python stack, as such stacks have it.

FastAPI checks a JSON array of events against a model, and boto3 sends them to Firehose, one record a row, as many a
call as the service takes. What it refused is sent again.
"""

import os
from datetime import datetime

import boto3
from botocore.config import Config
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

STREAM = os.environ.get("REFERENCE_STREAM", "reference-flights")
# https://docs.aws.amazon.com/firehose/latest/APIReference/API_PutRecordBatch.html
RECORDS_MAX = 500
TRIES = 5

app = FastAPI()
firehose = boto3.client("firehose", config=Config(max_pool_connections=50))


class Event(BaseModel):
    flight_id: int
    status: str
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    distance: int
    year: int
    month: int = Field(ge=1, le=12)
    day: int
    hour: int
    minute: int
    time_hour: datetime
    sched_dep: datetime
    sched_dep_time: int
    sched_arr_time: int
    dep_time: int | None
    dep_delay: int | None
    arr_time: int | None
    arr_delay: int | None
    air_time: int | None
    updated_at: datetime
    op: str


@app.post("/flights")
def take(events: list[Event]) -> dict[str, int]:
    if len(events) > RECORDS_MAX:
        raise HTTPException(413, f"send at most {RECORDS_MAX} events at a time")
    records = [{"Data": event.model_dump_json().encode() + b"\n"} for event in events]
    for _ in range(TRIES):
        answer = firehose.put_record_batch(DeliveryStreamName=STREAM, Records=records)
        if not answer["FailedPutCount"]:
            return {"rows": len(events)}
        results = answer["RequestResponses"]
        records = [record for record, result in zip(records, results) if result.get("ErrorCode")]
    raise HTTPException(503, f"{len(records)} events were not taken; try again")
