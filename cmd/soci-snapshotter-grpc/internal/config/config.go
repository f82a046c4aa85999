// SPDX-License-Identifier: Apache-2.0

// Package config is the daemon's config.toml.
//
// Load reads a file into a Config, which begins as Default, and returns beside
// it the Warnings about keys that have no effect. Config's methods Registry and
// Options turn it into the options of the packages that do the work:
//
//	c, warnings, err := config.Load(config.DefaultPath)
//	client, err := registry.NewClient(c.Registry())
//
// # Limits
//
// A file has at most 1 MiB.
//
// # Decisions
//
//   - Keys, types, defaults and units are the incumbent's, so that its file works
//     unchanged. A key that has no effect here, or that nobody knows, is named in
//     a warning and never an error: a node must not stay without a snapshotter for
//     a key. A value that cannot be meant is an error, with its key's name.
//   - Zero means the default wherever it means that to the incumbent.
//   - background_fetch.silence_period_msec keeps the incumbent's background fetch out of the
//     way of a container's start. Here what is asked for goes first, always, so its default,
//     written out or not, means no silence; any other value is how long no layer's fetch begins
//     after a mount. There is no rate to set (fetch_period_msec): the link is used when it is idle.
//     Metrics are up to date whenever they are read, whatever emit_metric_period_sec.
//   - [holder] is not the incumbent's, so that it is only written out where it is not the default.
//     Nor is [security], all of whose defaults leave an image what it is to the incumbent: see Security.
//     Nor is [cache], how much of the disk layers may take: see Cache.
//   - What is to be prefetched is, whatever prefetch.enable says, whose default is false: it
//     costs nobody anything.
package config

// DefaultPath is where the daemon looks for its file unless told otherwise.
const DefaultPath = "/etc/soci-snapshotter-grpc/config.toml"

// Config is the file. Its fields are in the order in which Marshal writes them.
type Config struct {
	HTTPCacheType               string `toml:"http_cache_type"`
	FilesystemCacheType         string `toml:"filesystem_cache_type"`
	ResolveResultEntry          int    `toml:"resolve_result_entry"`
	Debug                       bool   `toml:"debug"`
	DisableVerification         bool   `toml:"disable_verification"`
	MaxConcurrency              int64  `toml:"max_concurrency"`   // negative: unlimited
	MountTimeoutSec             int64  `toml:"mount_timeout_sec"` // 0: 30
	FuseMetricsEmitWaitSec      int64  `toml:"fuse_metrics_emit_wait_duration_sec"`
	MetricsAddress              string `toml:"metrics_address"` // "": no endpoint
	MetricsNetwork              string `toml:"metrics_network"` // tcp or unix
	NoPrometheus                bool   `toml:"no_prometheus"`
	DebugAddress                string `toml:"debug_address"` // "": no endpoint
	MetadataStore               string `toml:"metadata_store"`
	MetadataDBNoSync            bool   `toml:"metadata_db_no_sync"`
	MetadataInsertionChunkSize  int    `toml:"metadata_insertion_chunk_size"`
	SkipCheckSnapshotterSupport bool   `toml:"skip_check_snapshotter_supported"`

	HTTP               HTTP               `toml:"http"`
	Blob               Blob               `toml:"blob"`
	DirectoryCache     DirectoryCache     `toml:"directory_cache"`
	FUSE               FUSE               `toml:"fuse"`
	BackgroundFetch    BackgroundFetch    `toml:"background_fetch"`
	ContentStore       ContentStore       `toml:"content_store"`
	Prefetch           Prefetch           `toml:"prefetch"`
	PullModes          PullModes          `toml:"pull_modes"`
	KubeconfigKeychain KubeconfigKeychain `toml:"kubeconfig_keychain"`
	CRIKeychain        CRIKeychain        `toml:"cri_keychain"`
	Resolver           Resolver           `toml:"resolver"`
	Snapshotter        Snapshotter        `toml:"snapshotter"`
	Holder             Holder             `toml:"holder,omitempty"`
	Security           Security           `toml:"security,omitempty"`
	Cache              Cache              `toml:"cache,omitempty"`
}

// HTTP is [http]: how registries are spoken to.
type HTTP struct {
	DialTimeoutMsec           int64 `toml:"DialTimeoutMsec"`
	ResponseHeaderTimeoutMsec int64 `toml:"ResponseHeaderTimeoutMsec"`
	RequestTimeoutMsec        int64 `toml:"RequestTimeoutMsec"`
	MaxRetries                int   `toml:"MaxRetries"` // negative: none
	MinWaitMsec               int64 `toml:"MinWaitMsec"`
	MaxWaitMsec               int64 `toml:"MaxWaitMsec"`
}

// Blob is [blob]: how layers are read.
type Blob struct {
	ValidInterval              int64 `toml:"valid_interval"`
	CheckAlways                bool  `toml:"check_always"`
	FetchTimeoutSec            int64 `toml:"fetching_timeout_sec"`
	MaxRetries                 int   `toml:"max_retries"`
	MinWaitMsec                int64 `toml:"min_wait_msec"`
	MaxWaitMsec                int64 `toml:"max_wait_msec"`
	ForceSingleRangeMode       bool  `toml:"force_single_range_mode"`
	MaxSpanVerificationRetries int   `toml:"max_span_verification_retries"` // negative: 3
}

// DirectoryCache is [directory_cache].
type DirectoryCache struct {
	MaxLRUCacheEntry int  `toml:"max_lru_cache_entry"`
	MaxCacheFds      int  `toml:"max_cache_fds"`
	SyncAdd          bool `toml:"sync_add"`
	Direct           bool `toml:"direct"`
}

// FUSE is [fuse]. The timeouts are in seconds.
type FUSE struct {
	AttrTimeout       int64 `toml:"attr_timeout"`
	EntryTimeout      int64 `toml:"entry_timeout"`
	NegativeTimeout   int64 `toml:"negative_timeout"`
	LogFuseOperations bool  `toml:"log_fuse_operations"`
}

// BackgroundFetch is [background_fetch]: how what nobody asks for is fetched.
type BackgroundFetch struct {
	Disable              bool   `toml:"disable"`
	SilencePeriodMsec    int64  `toml:"silence_period_msec"`
	FetchPeriodMsec      int64  `toml:"fetch_period_msec"`
	MaxQueueSize         int    `toml:"max_queue_size"`
	DropPolicy           string `toml:"drop_policy"`
	EmitMetricsPeriodSec int64  `toml:"emit_metric_period_sec"`
}

// ContentStore is [content_store].
type ContentStore struct {
	Type              string `toml:"type"`
	ContainerdAddress string `toml:"containerd_address"`
}

// Prefetch is [prefetch].
type Prefetch struct {
	Enable         bool  `toml:"enable"`
	MaxConcurrency int64 `toml:"max_concurrency"`
}

// PullModes is [pull_modes]: how an image's index is found, and what else there is.
type PullModes struct {
	V1       PullMode     `toml:"soci_v1"`
	V2       PullMode     `toml:"soci_v2"`
	Parallel ParallelPull `toml:"parallel_pull_unpack"`
}

// PullMode is a mode that is on or off.
type PullMode struct {
	Enable bool `toml:"enable"`
}

// ParallelPull is [pull_modes.parallel_pull_unpack].
type ParallelPull struct {
	Enable                         bool                        `toml:"enable"`
	AsFallback                     bool                        `toml:"experimental_parallel_pull_as_fallback"`
	MaxConcurrentDownloads         int64                       `toml:"max_concurrent_downloads"`
	MaxConcurrentDownloadsPerImage int64                       `toml:"max_concurrent_downloads_per_image"`
	ConcurrentDownloadChunkSize    string                      `toml:"concurrent_download_chunk_size"`
	MaxConcurrentUnpacks           int64                       `toml:"max_concurrent_unpacks"`
	MaxConcurrentUnpacksPerImage   int64                       `toml:"max_concurrent_unpacks_per_image"`
	DiscardUnpackedLayers          bool                        `toml:"discard_unpacked_layers"`
	DecompressStreams              map[string]DecompressStream `toml:"decompress_streams,omitempty"`
}

// DecompressStream is an external decompressor.
type DecompressStream struct {
	Path string   `toml:"path"`
	Args []string `toml:"args"`
}

// KubeconfigKeychain is [kubeconfig_keychain].
type KubeconfigKeychain struct {
	EnableKeychain bool   `toml:"enable_keychain"`
	KubeconfigPath string `toml:"kubeconfig_path"`
}

// CRIKeychain is [cri_keychain].
type CRIKeychain struct {
	EnableKeychain   bool   `toml:"enable_keychain"`
	ImageServicePath string `toml:"image_service_path"`
}

// Resolver is [resolver]: where layers are to be had.
type Resolver struct {
	AuthClientTTLSec        int64           `toml:"auth_client_ttl_sec"`
	EnableAuthClientSharing bool            `toml:"enable_auth_client_sharing"`
	Host                    map[string]Host `toml:"host,omitempty"`
}

// Host is [resolver.host."NAME"].
type Host struct {
	Mirrors []Mirror `toml:"mirrors"`
}

// Mirror is a host asked for layers before the origin.
type Mirror struct {
	Host              string `toml:"host"`
	Insecure          bool   `toml:"insecure"`            // http
	RequestTimeoutSec int64  `toml:"request_timeout_sec"` // 0, negative: none of its own
}

// Snapshotter is [snapshotter].
type Snapshotter struct {
	MinLayerSize                int64 `toml:"min_layer_size"` // bytes
	AllowInvalidMountsOnRestart bool  `toml:"allow_invalid_mounts_on_restart"`
}

// Holder is [holder], which the incumbent has not: what becomes of the mount when the daemon ends.
type Holder struct {
	Disable     bool   `toml:"disable,omitempty"`       // it ends with the daemon
	EIOAfterSec *int64 `toml:"eio_after_sec,omitempty"` // without a daemon, after which readers get EIO; none: 60; 0: never
}

// Default is the configuration of a daemon without a file.
func Default() Config {
	return Config{
		MaxConcurrency:         100,
		MountTimeoutSec:        30,
		FuseMetricsEmitWaitSec: 60,
		MetricsNetwork:         "tcp",
		MetadataStore:          "db",
		HTTP: HTTP{
			DialTimeoutMsec: 3000, ResponseHeaderTimeoutMsec: 3000, RequestTimeoutMsec: 300000,
			MaxRetries: 8, MinWaitMsec: 30, MaxWaitMsec: 300000,
		},
		Blob: Blob{
			ValidInterval: 60, FetchTimeoutSec: 300,
			MaxRetries: 8, MinWaitMsec: 30, MaxWaitMsec: 300000,
		},
		DirectoryCache: DirectoryCache{Direct: true},
		FUSE:           FUSE{AttrTimeout: 1, EntryTimeout: 1, NegativeTimeout: 1},
		BackgroundFetch: BackgroundFetch{
			SilencePeriodMsec: 30000, FetchPeriodMsec: 500, MaxQueueSize: 300, DropPolicy: "newest", EmitMetricsPeriodSec: 10,
		},
		ContentStore: ContentStore{Type: "soci", ContainerdAddress: "/run/containerd/containerd.sock"},
		PullModes: PullModes{
			V2: PullMode{Enable: true},
			Parallel: ParallelPull{
				MaxConcurrentDownloads: -1, MaxConcurrentDownloadsPerImage: 3,
				MaxConcurrentUnpacks: -1, MaxConcurrentUnpacksPerImage: 1,
			},
		},
		CRIKeychain: CRIKeychain{ImageServicePath: "/run/containerd/containerd.sock"},
		Resolver:    Resolver{AuthClientTTLSec: 3600},
	}
}
