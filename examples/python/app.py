"""Says what it is asked for; as small as a service can be."""

import socket


def main() -> None:
    with socket.create_server(("", 8080)) as server:
        while True:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nhello\n")


if __name__ == "__main__":
    main()
