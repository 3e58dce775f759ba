"""Every setting: its name, type, default, bounds and help."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MIB = 1024 * 1024


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The server's settings, validated."""

    data_dir: Annotated[str, Meta(min_length=1, description="Folder that holds everything the server keeps.")] = (
        "mlbox-data"
    )
    host: Annotated[str, Meta(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port to listen on; 0 picks a free one.")] = 8265
    grpc_port: Annotated[
        int,
        Meta(
            ge=-1,
            le=65535,
            description="TCP port of the Open Inference Protocol by gRPC; 0 picks a free one, -1: none.",
        ),
    ] = -1
    invocations_model: Annotated[
        str, Meta(description="Model, such as fraud or fraud@staging, that /invocations asks when its path names none.")
    ] = ""
    open_inference_name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=100,
            description="Name that the server gives by the Open Inference Protocol; Triton's example scripts want triton.",
        ),
    ] = "mlbox"
    allowed_host: Annotated[
        tuple[str, ...],
        Meta(description="Host names, besides localhost and the address listened on, that requests may come in under."),
    ] = ()
    public_url: Annotated[
        str,
        Meta(
            pattern=r"^(|https?://[^\s/?#]+(/[^\s?#]*)?)$",
            description="Where people reach this server, such as https://mlbox.example.org: links in messages begin with it.",
        ),
    ] = ""
    cors_origin: Annotated[
        tuple[str, ...],
        Meta(
            description="Origins, such as https://lab.example, whose pages may call the API with a token of their own."
        ),
    ] = ()
    trusted_proxy: Annotated[
        tuple[str, ...],
        Meta(description="Addresses or networks of proxies whose X-Forwarded-For, -Proto and -Host are believed."),
    ] = ()
    tls_cert: Annotated[
        str,
        Meta(
            description="PEM file with the server's certificate and its chain: with it the server speaks TLS, but to jobs."
        ),
    ] = ""
    tls_key: Annotated[str, Meta(description="PEM file with the private key of tls_cert, without a passphrase.")] = ""
    hsts_days: Annotated[
        int, Meta(ge=0, le=3650, description="Days for which browsers that came over TLS are told to use nothing else.")
    ] = 0
    replay_clock: Annotated[
        str,
        Meta(
            description="Start of domain time for replaying the past, e.g. 2013-01-01T00:00Z; only for a new data directory."
        ),
    ] = ""
    max_body: Annotated[int, Meta(ge=1024, description="Largest request body in bytes, artifacts aside.")] = 10 * MIB
    max_artifact: Annotated[int, Meta(ge=1024, description="Largest single artifact in bytes.")] = 65536 * MIB
    deleted_days: Annotated[
        float,
        Meta(ge=0, le=36500, description="Days for which a deletion can be taken back before it is removed for good."),
    ] = 30
    collect_hours: Annotated[
        float,
        Meta(ge=0, description="Hours between two removals of what was deleted long ago; 0: only by `mlbox gc`."),
    ] = 24
    backup_dir: Annotated[
        str,
        Meta(
            description="Folder for `mlbox backup create`, better on another disk; default: backups, in the data directory."
        ),
    ] = ""
    standby: Annotated[
        str,
        Meta(
            pattern="^(on|off)$",
            description="Serve and begin nothing: no job, cron or view runs, no model is checked or judged, nothing old is"
            " removed, and no mail, alert, webhook or lineage event is sent; to look into a restored backup.",
        ),
    ] = "off"
    max_upload: Annotated[int, Meta(ge=1024, description="Largest upload of rows in bytes, streamed.")] = 1024 * MIB
    max_dataset: Annotated[int, Meta(ge=1024, description="Largest upload of a dataset's rows in bytes, streamed.")] = (
        262144 * MIB
    )
    upload_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Most seconds that an upload may take to parse.")
    ] = 120
    upload_memory_mb: Annotated[
        int, Meta(ge=256, description="Most memory in MiB that the parser of an upload may take.")
    ] = 2048
    max_sql: Annotated[int, Meta(ge=256, description="Longest SQL text in bytes.")] = 65536
    max_depth: Annotated[int, Meta(ge=4, le=500, description="Deepest nesting of JSON in a request's body.")] = 64
    max_name: Annotated[int, Meta(ge=8, le=256, description="Longest name of anything, in characters.")] = 256
    max_page: Annotated[
        int, Meta(ge=1, le=10000, description="Most rows in one page of a list, of which many take 1000 at most.")
    ] = 10000
    max_url: Annotated[int, Meta(ge=256, description="Longest path and query of a request in bytes.")] = 8192
    max_header: Annotated[int, Meta(ge=1024, description="Largest headers of a request in bytes, all together.")] = (
        32768
    )
    max_requests: Annotated[int, Meta(ge=1, description="Requests, live streams among them, answered at a time.")] = (
        1000
    )
    max_connections: Annotated[int, Meta(ge=1, description="Connections held open at a time.")] = 2000
    upload_quota: Annotated[
        int, Meta(ge=0, description="Bytes of artifacts and datasets that one team may keep; 0 sets no quota.")
    ] = 0
    read_timeout: Annotated[
        float,
        Meta(
            gt=0, le=3600, description="Seconds a client may take for its headers, and for a body beyond 500 bytes/s."
        ),
    ] = 30
    write_timeout: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds that a client may take none of an answer that waits for it.")
    ] = 60
    duckdb_memory: Annotated[str, Meta(pattern=r"^\d+(MB|GB)$", description="Memory limit of the offline store.")] = (
        "2GB"
    )
    duckdb_temp: Annotated[
        str, Meta(pattern=r"^\d+(MB|GB)$", description="Limit of the offline store's temporary files.")
    ] = "20GB"
    query_seconds: Annotated[
        float, Meta(gt=0, le=86400, description="Most seconds that a query of the offline store may take.")
    ] = 300
    build_seconds: Annotated[
        float, Meta(gt=0, le=86400, description="Most seconds that building a dataset version may take.")
    ] = 3600
    threads: Annotated[int, Meta(ge=1, le=256, description="Threads for blocking store calls.")] = 16
    infer_threads: Annotated[int, Meta(ge=1, le=64, description="Threads that one model's inference may use.")] = 1
    infer_gpus: Annotated[
        str,
        Meta(
            pattern=r"^[0-9]{1,3}(,[0-9]{1,3}){0,63}$",
            description="Numbers of the GPUs that serve models, as 0,1: each model goes to the one on which others take"
            " the least. Never tried with a GPU.",
        ),
    ] = "0"
    tensorrt: Annotated[
        str,
        Meta(
            pattern="^(on|off)$",
            description="Whether onnxruntime's TensorRT is tried before CUDA, where it is installed: it builds a model's engine"
            " when that is loaded, which may take minutes. Never tried with a GPU.",
        ),
    ] = "off"
    workers: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="Processes that run models, so that a model that dies takes one of them and not the server; each holds"
            " every model. 0 runs models in the server itself, which is quickest.",
        ),
    ] = 0
    max_models: Annotated[
        int, Meta(ge=1, le=10000, description="Model versions in memory; the longest unused one gives way to another.")
    ] = 64
    models_memory_gb: Annotated[
        float,
        Meta(
            ge=0,
            description="Most memory in GiB that models in memory may take, and as much again what they compute at a time; 0"
            " means what running jobs leave, and half of the box's memory.",
        ),
    ] = 0
    gpus: Annotated[
        str,
        Meta(
            description="GPUs to schedule on: auto asks the driver, none uses no GPU, else indices such as 0,1, or virtual ones"
            " to try policies with, as [[gpus]] tables in the settings file or virtual:NAME=GB,NAME=GB."
        ),
    ] = "auto"
    cpus: Annotated[int, Meta(ge=0, description="CPUs that jobs may share; 0 means all of the box.")] = 0
    memory_gb: Annotated[
        float, Meta(ge=0, description="Memory in GiB that jobs may share; 0 means all of the box.")
    ] = 0
    sample_seconds: Annotated[
        float,
        Meta(ge=0, le=3600, description="Seconds between two samples of what a running job uses; 0 takes none."),
    ] = 10
    gpu_idle_minutes: Annotated[
        float, Meta(ge=0, description="Minutes after which a job that leaves its GPU idle is an event; 0: it is none.")
    ] = 20
    fair_share_days: Annotated[
        float, Meta(gt=0, le=3650, description="Days after which half of what a team used no longer counts against it.")
    ] = 7
    ageing_hours: Annotated[
        float, Meta(gt=0, le=8760, description="Hours of waiting after which a job rises by one priority.")
    ] = 12
    job_retries: Annotated[
        int, Meta(ge=0, le=100, description="Retries of a failed job when its submission names none.")
    ] = 2
    job_grace: Annotated[
        float, Meta(ge=0, le=600, description="Seconds between SIGTERM and SIGKILL when a job is stopped.")
    ] = 10
    job_folder_hours: Annotated[
        float, Meta(ge=0, le=87600, description="Hours after a job's end that its work folders are removed.")
    ] = 24
    job_checkpoint_days: Annotated[
        float,
        Meta(ge=0, le=3650, description="Days that checkpoints of a job that did not succeed are kept for a retry."),
    ] = 30
    job_log_days: Annotated[
        float,
        Meta(
            ge=0,
            le=36500,
            description="Days after a job's end that its log is removed, but not before its checkpoints; 0 keeps it for ever.",
        ),
    ] = 365
    environment_seconds: Annotated[
        float, Meta(gt=0, le=86400, description="Most seconds that building the Python environment of a job may take.")
    ] = 1800
    environment_days: Annotated[
        float, Meta(gt=0, le=3650, description="Days after its last use that a built Python environment is removed.")
    ] = 30
    job_log_mb: Annotated[
        float,
        Meta(
            gt=0, description="Largest log of one attempt in MiB; what is printed beyond is dropped, as the log says."
        ),
    ] = 1024
    job_disk_reserve_mb: Annotated[
        float,
        Meta(
            ge=0,
            description="MiB of the data directory's disk, but no more than a tenth of it, that jobs leave free: else what ended"
            " jobs left goes early, and then the job that holds most is ended; 0: they may fill it.",
        ),
    ] = 1024
    job_isolation: Annotated[
        str,
        Meta(
            pattern="^(auto|required|off)$",
            description="Keep jobs from the data directory and from each other: auto where the kernel can, required, or off.",
        ),
    ] = "auto"
    job_writable: Annotated[
        tuple[str, ...],
        Meta(description="Folders that jobs may write to beside their own, temporary ones and the user's cache."),
    ] = ()
    log_format: Annotated[
        str,
        Meta(
            pattern="^(auto|json|text)$",
            description="Lines of the server's log: json, text, or auto, which is text on a terminal and json elsewhere.",
        ),
    ] = "auto"
    log_level: Annotated[
        str,
        Meta(
            pattern="^(debug|info|warning|error)$",
            description="Least that is logged of what the server does: debug, info, warning or error.",
        ),
    ] = "info"
    log_file: Annotated[
        str, Meta(description="File for the server's log, opened anew when it was moved away; none means stderr.")
    ] = ""
    access_log: Annotated[
        str,
        Meta(
            pattern="^(on|off|errors)$",
            description="Which requests get a line in the log: on is all, errors those refused or failed, off none.",
        ),
    ] = "on"
    fast_path: Annotated[
        str,
        Meta(
            pattern="^(on|off)$",
            description="Whether predictions, online reads and new jobs may pass by the router, answered the same: on or off.",
        ),
    ] = "on"
    secret_key_file: Annotated[
        str,
        Meta(description="File with the key that secrets are encrypted with; none means keys/secret.key in data_dir."),
    ] = ""
    rollout_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds between two looks at the candidates in shadow and canary.")
    ] = 5.0
    log_flush: Annotated[
        float, Meta(gt=0, le=10, description="Most seconds of prediction log that are not yet on disk.")
    ] = 1.0
    log_queue: Annotated[
        int, Meta(ge=100, description="Predictions that may wait for the log before drops are counted.")
    ] = 50000
    prediction_days: Annotated[
        float,
        Meta(
            ge=1, le=36500, description="Days for which predictions are kept, of models that do not say so themselves."
        ),
    ] = 183
    erasure_audit: Annotated[
        str,
        Meta(
            pattern="^(digest|clear)$",
            description="How an erasure's key stands in the audit log: as an HMAC that proves it, or in clear.",
        ),
    ] = "digest"
    drift_window: Annotated[int, Meta(ge=100, description="Predictions in the current window of a drift check.")] = (
        10000
    )
    drift_minimum: Annotated[int, Meta(ge=2, description="Fewest values on either side of a drift check.")] = 100
    drift_days: Annotated[float, Meta(gt=0, le=3650, description="Oldest prediction, in days, of a drift check.")] = 30
    drift_seconds: Annotated[
        float,
        Meta(ge=0, description="Seconds between two drift checks of every model; 0, or replay mode: only on demand."),
    ] = 600
    alert_rules: Annotated[
        str,
        Meta(description="TOML file with rules and channels of alerts; none means the defaults, and nobody is told."),
    ] = ""
    source_folders: Annotated[
        tuple[str, ...],
        Meta(
            description="Folders of this machine that sources may be fed from, such as landing=/srv/landing; whoever may make"
            " a source can read what is in them."
        ),
    ] = ()
    refresh_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="Seconds between two looks at the schedules of feature views; 0 switches them off.",
        ),
    ] = 5
    skew_sample: Annotated[
        int, Meta(ge=0, le=10000, description="Served rows that each check of skew computes anew; 0 switches it off.")
    ] = 500
    skew_limit: Annotated[
        float,
        Meta(gt=0, le=1, description="Share of served values below which differing from the history is an alert."),
    ] = 0.99
    session_hours: Annotated[float, Meta(gt=0, le=8760, description="Hours until an idle browser session ends.")] = 12
    session_days: Annotated[
        float, Meta(gt=0, le=365, description="Days until a browser session ends, however much it is used.")
    ] = 7
    password_min: Annotated[int, Meta(ge=8, le=128, description="Fewest characters of a password.")] = 12
    signin_tries: Annotated[
        int,
        Meta(ge=1, le=100, description="Wrong passwords in a row for one account before each next try has to wait."),
    ] = 5
    signin_wait: Annotated[
        float, Meta(ge=1, le=86400, description="Longest of these waits in seconds; the first is 1, and each doubles.")
    ] = 900
    signin_rate: Annotated[
        int, Meta(ge=1, le=100000, description="Wrong passwords, tokens and login links a minute from one address.")
    ] = 30
    outgoing_allow: Annotated[
        tuple[str, ...],
        Meta(
            description="Hosts, addresses or networks, not on the public internet, that the server may send requests to."
        ),
    ] = ()
    outgoing_ca: Annotated[
        str, Meta(description="PEM file with further authorities whose certificates the server's own requests trust.")
    ] = ""
    openlineage_url: Annotated[
        str,
        Meta(
            pattern=r"^(|https?://.+)$",
            description="Where an OpenLineage collector takes events, such as https://marquez.lab.example/api/v1/lineage; none"
            " sends none.",
        ),
    ] = ""
    openlineage_namespace: Annotated[
        str,
        Meta(min_length=1, max_length=256, description="Namespace of this box's jobs and datasets at the collector."),
    ] = "mlbox"
    openlineage_key_file: Annotated[
        str, Meta(description="File with the API key that the collector asks for, mode 0600; none sends none.")
    ] = ""
    smtp_url: Annotated[
        str,
        Meta(
            pattern=r"^(|smtps?://.+)$",
            description="Mail server for messages to people, such as smtp://mlbox@mail.example.org:587; none sends no mail.",
        ),
    ] = ""
    smtp_password_file: Annotated[str, Meta(description="File with the password at the mail server, mode 0600.")] = ""
    smtp_from: Annotated[str, Meta(min_length=3, description="Address that mail is from.")] = "mlbox@localhost"
    oidc_issuer: Annotated[
        str,
        Meta(description="Issuer of the OpenID Connect provider to sign in with, as its discovery document says it."),
    ] = ""
    oidc_name: Annotated[
        str, Meta(max_length=60, description="What the sign-in page calls the provider; none means its host name.")
    ] = ""
    oidc_client_id: Annotated[str, Meta(description="Id that the provider gave this server as its client.")] = ""
    oidc_client_secret_file: Annotated[
        str,
        Meta(description="File with the client's secret, mode 0600; none for a public client, which has no secret."),
    ] = ""
    oidc_scopes: Annotated[
        tuple[str, ...], Meta(description="Scopes to ask the provider for; openid is always among them.")
    ] = ("openid", "profile", "email")
    oidc_name_claim: Annotated[
        str, Meta(min_length=1, description="Claim that names a new account; what stands before an @ is taken.")
    ] = "preferred_username"
    oidc_groups_claim: Annotated[
        str,
        Meta(min_length=1, description="Claim with a person's groups; a dot leads into an object: realm_access.roles."),
    ] = "groups"
    oidc_groups: Annotated[
        tuple[str, ...],
        Meta(
            description="What a group at the provider is here, such as ml-engineers=vision:member or leads=everyone:admin."
        ),
    ] = ()
    oidc_default_role: Annotated[
        str,
        Meta(description="Role on the box of people in none of the groups in oidc_groups; none keeps them out."),
    ] = ""
    oidc_require: Annotated[
        tuple[str, ...],
        Meta(description="Claims, such as hd=example.org, that all must be as said for anyone to sign in."),
    ] = ()
