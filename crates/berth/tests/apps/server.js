require("http").createServer((request, response) => response.end("hello from node")).listen(process.env.PORT);
