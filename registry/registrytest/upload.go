// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
)

// serveUpload is every step of a blob upload: distribution specification 1.1,
// "Pushing Blobs".
func (s *Server) serveUpload(w http.ResponseWriter, r *Request) {
	if r.Method == http.MethodPost && r.Reference == "" {
		s.beginUpload(w, r)
		return
	}
	u, err := s.store.upload(r.Repository, r.Reference)
	if err != nil {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "upload unknown to registry")
		return
	}
	switch r.Method {
	case http.MethodGet:
		s.progress(w, r.Repository, r.Reference, u)
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		s.patchUpload(w, r, u)
	case http.MethodPut:
		s.finishUpload(w, r, r.Reference, u)
	case http.MethodDelete:
		s.store.cancel(r.Reference, u)
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "method not allowed")
	}
}

// beginUpload starts an upload; a mount is answered as if the blob could not
// be mounted, and a digest without mount means all comes at once.
func (s *Server) beginUpload(w http.ResponseWriter, r *Request) {
	id, err := s.store.begin(r.Repository)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	u, err := s.store.upload(r.Repository, id)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if r.URL.Query().Get("digest") != "" {
		s.finishUpload(w, r, id, u)
		return
	}
	s.progress(w, r.Repository, id, u)
	w.WriteHeader(http.StatusAccepted)
}

// progress tells how far an upload is.
func (s *Server) progress(w http.ResponseWriter, repo, id string, u *upload) {
	u.mu.Lock()
	defer u.mu.Unlock()
	w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+id)
	w.Header().Set("Docker-Upload-Uuid", id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(u.size-1, 0)))
}

func (s *Server) patchUpload(w http.ResponseWriter, r *Request, u *upload) {
	if cr := r.Header.Get("Content-Range"); cr != "" {
		var from, to int64
		_, err := fmt.Sscanf(strings.TrimPrefix(cr, "bytes "), "%d-%d", &from, &to)
		u.mu.Lock()
		size := u.size
		u.mu.Unlock()
		if err != nil || from != size {
			s.progress(w, r.Repository, r.Reference, u)
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
	}
	if err := u.write(r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s.progress(w, r.Repository, r.Reference, u)
	w.WriteHeader(http.StatusAccepted)
}

func (s *Server) finishUpload(w http.ResponseWriter, r *Request, id string, u *upload) {
	dgst, err := digest.Parse(r.URL.Query().Get("digest"))
	if err != nil || dgst.Algorithm() != digest.SHA256 {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "a sha256 digest is needed")
		return
	}
	if err := u.write(r.Body); err != nil {
		s.store.cancel(id, u)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	switch err := s.store.finish(id, u, dgst); {
	case errors.Is(err, errDigest):
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", err.Error())
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.Header().Set("Docker-Content-Digest", dgst.String())
		w.Header().Set("Location", "/v2/"+r.Repository+"/blobs/"+dgst.String())
		w.WriteHeader(http.StatusCreated)
	}
}
